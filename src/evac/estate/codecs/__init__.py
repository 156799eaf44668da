"""Files other than estates (plans, policies, access, notices, baselines, bundles), and writing estates."""
