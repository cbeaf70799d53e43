"""What we do: the rollout's record, the template in force, the writes of one pass, and the way back from a failure.

`plan` calls this wing once `policy` has allowed a spec. It returns actions as values; `reconcile` applies them.

The trap: record, template and strategy of a Deployment are written in one request. Two writes would leave a state in between
that a killed operator could not explain.
"""
