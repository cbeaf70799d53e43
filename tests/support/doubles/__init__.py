"""Stand-ins for the two programs that this project cannot ship: the Medplum Agent and the Medplum server.

`docs/internals/stand-ins.md` says what they simulate and what not. This folder runs on its own: nothing here imports from the rest of
`tests`, and aiohttp is its only dependency, so that the images need no more than this folder.
"""
