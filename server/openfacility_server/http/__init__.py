"""What HTTP does better than transcoded gRPC, and the JSON edge: probes, strict checks, server-sent events."""
