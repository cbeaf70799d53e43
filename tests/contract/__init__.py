"""What must stay in step: CRD, docs, rights, samples and code."""
