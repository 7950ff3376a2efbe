"""Who calls the coordinator, and what he may do: files that are followed, tokens, the policy, and the one gate that asks them."""
