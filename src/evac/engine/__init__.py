"""The only room that acts: leads by lease, performs effects, appends results, keeps deadlines."""
