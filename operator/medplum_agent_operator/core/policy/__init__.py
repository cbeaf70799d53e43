"""What is allowed: whether a change may begin, how it is made, when it has failed, and the messages about it.

`plan` asks this wing, one question for each module. Approval, mechanics (`strategy`) and timing (`windows`, `downtime`) are
separate questions; keep them separate.

The trap: these functions see one frozen observation. They never compare an old object with a new one, and they render nothing.
"""
