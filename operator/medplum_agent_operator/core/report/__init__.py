"""What we say: how far a rollout has got, what gates report, and how long devices were without an agent.

`rollout` and `status` call this wing. It turns an observation into phases, reasons, messages and figures.

The trap: this wing must not change what the operator applies. A message that has to stop a rollout is a refusal and belongs in
`policy`.
"""
