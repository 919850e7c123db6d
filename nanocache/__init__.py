"""nanocache: an artifact on local disk, verified, downloaded once, however many ask for it at the same moment."""
