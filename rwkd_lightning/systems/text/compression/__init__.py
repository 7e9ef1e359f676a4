"""Word tables in few bytes, by block-wise weighted low rank.

Chen et al., GroupReduce, NeurIPS 2018; Lee et al., Block-wise Word Embedding Compression Revisited, Findings of EMNLP
2021.
"""
