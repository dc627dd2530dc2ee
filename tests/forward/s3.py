"""A bucket on a local S3: `s3.py make PORT _` makes it, once the port answers, and sees that a wrong signature is refused;
`s3.py get PORT FOLDER` copies it."""
import pathlib, sys, time
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

what, port, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])


def client(secret):
    config = Config(retries={"max_attempts": 0}, request_checksum_calculation="when_required",
                    response_checksum_validation="when_required")
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="eu-test-1", aws_access_key_id="testing",
                        aws_secret_access_key=secret, config=config)


s3 = client("testing")
if what == "make":
    for attempt in range(600):
        try:
            s3.create_bucket(Bucket="lake")
            break
        except EndpointConnectionError:
            time.sleep(0.1)
    else:
        sys.exit(f"nothing answers on {port}")
    try:
        client("wrong").put_object(Bucket="lake", Key="key", Body=b"")
        sys.exit("a wrong signature is taken")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "SignatureDoesNotMatch", error
else:
    for item in s3.list_objects_v2(Bucket="lake")["Contents"]:
        path = folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.get_object(Bucket="lake", Key=item["Key"])["Body"].read())
