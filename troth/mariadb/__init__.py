"""MariaDB, as the log, the resource and `troth doctor` reach it: addresses, drivers, and what errors mean."""
