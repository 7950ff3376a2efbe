"""For the tests of services and of resources.

`contract`  the contract of resources as a pytest suite: whatever passes it can be a participant's resource.
`cluster`   participants and a coordinator in one process, without ports and without files of a coordinator: for testing operations.
"""
