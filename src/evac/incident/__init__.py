"""What is reported about an incident, during and after it, computed only from journals and people's notes.

The package takes and returns plain values; it reads no clock, file or store.

Takes:
    values.Notice     one record of the journal of watching, with its number there
    values.RunRecord  one run: its spec and those of later plans, its events, the plans it carried out
    notes.Note        what a person wrote down, already checked
    now_ms            the moment of whoever asks

Gives:
    timeline.timeline      entries in order; each names the record that proves it
    services.fates         which services were down or degraded, from when to when, and by which record
    incident.summary       start, end, who commands, people affected, what is still down
    components.*           the public status: components, 90 days of history, published updates
    regulator.*            the report for a regulator: every field known with its basis, or said to be not
    known runbook.runbook        a plan as a list for paper, with the ids of its steps

Anything that no record and no person states is reported as not known.
"""
