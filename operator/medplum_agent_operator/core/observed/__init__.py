"""Everything that one pass read, frozen, as values that can be printed and compared.

`observe` builds `model.Observed` once for each pass. Every other wing reads it and none changes it. This wing reads API
objects leniently: an invalid field counts as absent.

The trap: nothing in this wing decides. A property that answers "what should happen?" belongs in `policy`.
"""
