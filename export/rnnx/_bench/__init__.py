"""How fast an artifact is on this machine, beside other ways to run the same model. Nothing here needs torch but the peers that are torch."""
