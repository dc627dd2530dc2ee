"""A bucket on a local S3: `s3.py make PORT _` makes it, once the port answers; `s3.py get PORT FOLDER` copies it."""
import pathlib, sys, time
import boto3
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

what, port, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="eu-test-1", aws_access_key_id="testing",
                  aws_secret_access_key="testing", config=Config(retries={"max_attempts": 0}))
if what == "make":
    for attempt in range(600):
        try:
            s3.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "eu-test-1"})
            break
        except EndpointConnectionError:
            time.sleep(0.1)
else:
    for item in s3.list_objects_v2(Bucket="lake")["Contents"]:
        path = folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.get_object(Bucket="lake", Key=item["Key"])["Body"].read())
