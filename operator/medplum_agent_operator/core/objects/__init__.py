"""The objects that the operator renders for one MedplumAgent, as plain dictionaries.

`rollout` calls this wing with a spec that is already allowed. Rendering is deterministic: the same spec, settings and
renderer revision give the same bytes, because a restarted operator must not write.

The trap: a change here replaces no pod. Raise `REVISION` in `rollout/template_in_force.py` when the agent's pod template
changes (docs/adr/0025).
"""
