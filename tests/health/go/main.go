// Command probe checks health as the kubelet does for a `grpc:` probe: one connection, one Health/Check, one deadline.
//
// It prints the answer and ends with 0 for SERVING, 1 for another answer and 2 for none. Beyond the kubelet, which
// knows no TLS, -ca makes it check the server's certificate.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	addr := flag.String("addr", "", "host:port")
	service := flag.String("service", "", "service to ask for; empty: the server as a whole")
	ca := flag.String("ca", "", "PEM file of the authority of the server's certificate; empty: plaintext")
	timeout := flag.Duration("timeout", 10*time.Second, "of connecting and asking together")
	flag.Parse()
	os.Exit(probe(*addr, *service, *ca, *timeout))
}

func probe(addr, service, ca string, timeout time.Duration) int {
	creds := insecure.NewCredentials()
	if ca != "" {
		fromFile, err := credentials.NewClientTLSFromFile(ca, "")
		if err != nil {
			fmt.Println(err)
			return 2
		}
		creds = fromFile
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithUserAgent("kube-probe/1.31"),
		grpc.WithTransportCredentials(creds),
	)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	defer conn.Close()
	// WaitForReady: the kubelet waits for the connection as long as its timeout lasts.
	answer, err := healthpb.NewHealthClient(conn).Check(
		metadata.NewOutgoingContext(ctx, make(metadata.MD)),
		&healthpb.HealthCheckRequest{Service: service},
		grpc.WaitForReady(true),
	)
	if err != nil {
		fmt.Println(status.Code(err))
		if status.Code(err) == codes.NotFound {
			return 1
		}
		return 2
	}
	fmt.Println(answer.GetStatus())
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return 1
	}
	return 0
}
