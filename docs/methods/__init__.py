"""The methods' cards, installed for the pages of `ganspect report`."""
