"""Files that are not estates: plans, policies, access, notices, baselines, bundles; and estates written."""
