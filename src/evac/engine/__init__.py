"""The only package that acts: leads by lease, performs effects, appends results, keeps deadlines."""
