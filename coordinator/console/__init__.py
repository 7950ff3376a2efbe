"""The console in the browser, inside the daemon: what needs people, transactions, participants. The extra `console` serves it."""
