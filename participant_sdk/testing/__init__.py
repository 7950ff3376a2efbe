"""For the tests of services and of resources.

`contract`       the contract of resources as a pytest suite: whatever passes it can be a participant's resource.
`cluster`        participants and a coordinator in one process, without ports: for testing operations.
`crashpoints`    an operation through crash-and-recover at every named crash point; the first broken promise is reported.
`pytest_plugin`  the same as a fixture, `crash_points`.
`proxy`          a TCP proxy that drops, delays, throttles, cuts and resets: for testing a service against a real coordinator.
"""

from troth.packages import explain_collision

# The coordinator's core runs beside the participants here; a folder of the author's may have its name.
explain_collision("coordinator")
