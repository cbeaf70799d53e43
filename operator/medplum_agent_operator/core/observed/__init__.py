"""What is: everything that one pass read, frozen, as values that can be printed and compared.

`observe` builds `model.Observed` once for each pass; every other wing reads it and none changes it. API objects are read
leniently here: a field that somebody broke counts as absent.

The trap: nothing in this wing decides. A property that answers "what should happen?" belongs into `policy`.
"""
