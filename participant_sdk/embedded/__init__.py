"""A coordinator inside of a service, for a service that has several databases: `Embedded` (`service`), and what it is made of."""
