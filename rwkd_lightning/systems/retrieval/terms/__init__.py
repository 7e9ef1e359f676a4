"""Loss terms over the candidates of a batch: a row is a query, a column a document."""

from rwkd_lightning.systems.retrieval.terms.contrastive import Contrastive
from rwkd_lightning.systems.retrieval.terms.embedding import TeacherVectors
from rwkd_lightning.systems.retrieval.terms.margin_mse import MarginMSE
from rwkd_lightning.systems.retrieval.terms.reverse import Reverse

__all__ = ["Contrastive", "MarginMSE", "Reverse", "TeacherVectors"]
