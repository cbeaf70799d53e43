"""What we do: the rollout's record, the template in force, the writes of one pass, and the rollback after a failure.

`plan` calls this wing once `policy` has allowed a spec. It returns actions as values; `reconcile` applies them.

The trap: record, template and strategy of a Deployment are written in one request. After the first of two
writes, a restarted operator could not explain the state.
"""
