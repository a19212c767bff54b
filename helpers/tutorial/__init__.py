"""How the tutorial runs: profiles, where data and weights come from, steps, runner, report."""
