"""What we say: how far a rollout has got, what gates report, and how long devices were without an agent.

`rollout` and `status` call this wing. It turns an observation into phases, reasons, messages and figures.

The trap: nothing here may change what is applied. A message that has to stop a rollout is a refusal and belongs into `policy`.
"""
