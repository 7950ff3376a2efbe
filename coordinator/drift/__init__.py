"""What a coordinator's log says, beside what participants' logs and databases hold."""
