"""Object storage, read-only: a bucket, and whether everything in it has been replicated."""

from evac.drivers.capabilities import ReportsRole
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "s3",
    "reports whether a bucket accepts objects itself or is replicated from another one, and how far it lags",
    (ReportsRole,),
    (
        Setting("bucket", "text", "the bucket here", needed=("store",)),
        Setting("url", "text", "where its S3 API listens", "AWS", reaches="host"),
        Setting("region", "text", "its region", "`us-east-1`"),
        Setting("source", "text", "the bucket it is replicated from", "none: it is the primary"),
        Setting(
            "source_url", "text", "where the S3 API of the source listens", "that of `url`", reaches="host"
        ),
        Setting("source_region", "text", "the region of the source", "that of `region`"),
        Setting("key", "text", "the access key for both buckets", "the machine's own credentials"),
        Setting("secret", "secret", "a reference to the secret key"),
    ),
    "evac.drivers.s3.driver:S3Driver",
    extra="s3",
)
