package testenv

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TraceService describes to gRPC a collector's service for spans (opentelemetry-proto, collector/trace/v1). A request of its method
// Export is encoded as TracesData is. take gets each, and answers when it returns.
func TraceService(take func(context.Context, *trace.TracesData)) *grpc.ServiceDesc {
	export := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var r trace.TracesData
		if err := decode(&r); err != nil {
			return nil, err
		}
		take(ctx, &r)
		return &emptypb.Empty{}, nil
	}
	return &grpc.ServiceDesc{ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: export}}}
}

// TraceCollector starts an OpenTelemetry collector, a program, that hands the spans that it gets to take. It returns the address at
// which it takes them, once it does.
func TraceCollector(t testing.TB, program string, take func(*trace.TracesData)) string {
	t.Helper()
	end := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var data trace.TracesData
		if err = errors.Join(err, proto.Unmarshal(body, &data)); err != nil {
			t.Errorf("from the collector: %v", err)
		}
		take(&data)
	}))
	t.Cleanup(end.Close)
	at := Collector(t, program, "traces", end.URL, "")
	var err error
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", at); err == nil {
			c.Close()
			return at
		}
	}
	t.Fatalf("the collector: %v", err)
	return ""
}
