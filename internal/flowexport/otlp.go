package flowexport

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// exportMethod is that of OTLP over gRPC. Its request is encoded as LogsData is (opentelemetry-proto, collector/logs/v1).
	exportMethod = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
	// exportWithin bounds an answer of a collector, exportLinger the time that a flow waits for others.
	exportWithin = 10 * time.Second
	exportLinger = time.Second
	// maxMessage bounds a request, in bytes; collectors take 4 MiB unless they are told otherwise.
	maxMessage = 1 << 20
)

// Collector is the Service of an OpenTelemetry collector that takes OTLP by gRPC.
type Collector struct {
	Namespace, Service string
	Port               uint16
	TLS                *TLS // nil for none: in the clear
}

// secured returns by which credentials, and under which name, the collector is connected to.
func (c Collector) secured() []grpc.DialOption {
	if c.TLS == nil {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	name := cmp.Or(c.TLS.ServerName, c.Service+"."+c.Namespace+".svc")
	return []grpc.DialOption{grpc.WithTransportCredentials(&reloading{*c.TLS, name}), grpc.WithAuthority(name)}
}

func (c Collector) String() string {
	return fmt.Sprintf("%s/%s:%d", c.Namespace, c.Service, c.Port)
}

// otlp sends log records to a collector.
type otlp struct {
	conn     *grpc.ClientConn
	resource *resource.Resource
	scope    *common.InstrumentationScope
}

// NewOTLP makes an Exporter to the endpoints of a collector's Service. Nothing is connected yet.
func NewOTLP(cfg Config, c Collector) (*Exporter, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.String(), append(c.secured(),
		grpc.WithUserAgent("weft/"+cfg.Version),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: firstRetry, Multiplier: 2, Jitter: 0.2, MaxDelay: lastRetry}, MinConnectTimeout: exportWithin,
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx, cfg.State) }))...)
	if err != nil {
		return nil, fmt.Errorf("export flows to %s: %w", c, err)
	}
	x := newExporter(cfg, model.ExportOTLP, c.String(), &otlp{
		conn: conn,
		resource: &resource.Resource{Attributes: attributes(
			text("service.name", "weft-agent"), text("service.version", cfg.Version), text("k8s.node.name", cfg.Node),
		)},
		scope: &common.InstrumentationScope{Name: "github.com/weft-mesh/weft", Version: cfg.Version},
	})
	x.linger = exportLinger
	return x, nil
}

// dial connects to one of the Service's endpoints, as they are now.
func (c Collector) dial(ctx context.Context, st *state.State) (net.Conn, error) {
	row, ok := st.Endpoints.Get(st.Snapshot(), (&model.Endpoints{Service: model.Key(c.Namespace, c.Service), Port: c.Port, Protocol: model.TCP}).Key())
	var ready []model.Endpoint
	if ok {
		for _, e := range row.Backends {
			if !e.Terminating {
				ready = append(ready, e)
			}
		}
	}
	if len(ready) == 0 {
		return nil, fmt.Errorf("the Service %s has no endpoint for the port", c)
	}
	e := ready[rand.N(len(ready))]
	return new(net.Dialer).DialContext(ctx, "tcp", e.Address.String())
}

func (o *otlp) send(ctx context.Context, items []item) (taken, lost int, err error) {
	for taken < len(items) {
		n, refused, err := o.export(ctx, items[taken:])
		taken, lost = taken+n, lost+refused
		if err != nil {
			return taken, lost, err
		}
	}
	return taken, lost, nil
}

// export sends as many flows as a request may have.
func (o *otlp) export(ctx context.Context, items []item) (taken, lost int, err error) {
	var records []*logs.LogRecord
	size := 0
	now := time.Now()
	for _, i := range items {
		r := record(i, now)
		if size += proto.Size(r); size > maxMessage && len(records) > 0 {
			break
		}
		records = append(records, r)
	}
	request := &logs.LogsData{ResourceLogs: []*logs.ResourceLogs{{
		Resource: o.resource, ScopeLogs: []*logs.ScopeLogs{{Scope: o.scope, LogRecords: records}},
	}}}
	ctx, cancel := context.WithTimeout(ctx, exportWithin)
	defer cancel()
	var answer emptypb.Empty // what it has is looked at as fields that are not known
	if err := o.conn.Invoke(ctx, exportMethod, request, &answer); err != nil {
		if retryable(err) {
			return 0, 0, err
		}
		return len(records), len(records), fmt.Errorf("the collector refuses flows: %w", err)
	}
	rejected, message := partialSuccess(answer.ProtoReflect().GetUnknown())
	if lost = int(min(max(rejected, 0), int64(len(records)))); lost > 0 {
		err = fmt.Errorf("the collector rejected %d of %d flows: %s", lost, len(records), message)
	}
	return len(records), lost, err
}

// retryable reports whether the same request may succeed later: OTLP 1.x, "Failures" of OTLP/gRPC.
func retryable(err error) bool {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
		return true
	case codes.ResourceExhausted:
		for _, d := range s.Details() {
			if _, ok := d.(*errdetails.RetryInfo); ok {
				return true
			}
		}
	}
	return false
}

// partialSuccess reads ExportLogsServiceResponse: how many records were rejected, and why.
func partialSuccess(b []byte) (rejected int64, message string) {
	partial, ok := field(b, 1, protowire.BytesType)
	if !ok {
		return 0, ""
	}
	inner, _ := protowire.ConsumeBytes(partial)
	if v, ok := field(inner, 1, protowire.VarintType); ok {
		n, _ := protowire.ConsumeVarint(v)
		rejected = int64(n)
	}
	if v, ok := field(inner, 2, protowire.BytesType); ok {
		s, _ := protowire.ConsumeBytes(v)
		message = valid(string(s))
	}
	return rejected, message
}

// field returns the value of a message's field. Bytes that are no message have no field.
func field(b []byte, want protowire.Number, as protowire.Type) ([]byte, bool) {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, false
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(number, typ, b)
		if n < 0 {
			return nil, false
		}
		if number == want && typ == as {
			return b[:n], true
		}
		b = b[n:]
	}
	return nil, false
}

func (o *otlp) close() { _ = o.conn.Close() }
