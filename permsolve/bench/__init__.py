"""The solver comparison: chosen methods on chosen instances under equal time on one core each.

`plan` makes the settings, `records` says what they and a run's record are, `runner` runs all in isolated processes
(`worker`), `journal` keeps finished runs across kills, `measures`, `summary` and `groups` turn runs into figures, and
`tables` prints them.
"""
