"""Dense retrieval distilled from a late-interaction teacher."""
