"""Other people's coordinators, measured beside Troth in the same run; what is fetched for it is no part of the tests."""
