"""The methods: all that is known of each in one folder."""
