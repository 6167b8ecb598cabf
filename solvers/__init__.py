"""The methods: one file each, named after the method; a new file is a new method."""
