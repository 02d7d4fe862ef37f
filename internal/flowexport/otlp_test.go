package flowexport

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/testenv"
)

// collector takes logs by OTLP over gRPC (opentelemetry-proto, collector/logs/v1), or behind a real collector by HTTP.
type collector struct {
	t  *testing.T
	mu sync.Mutex
	// answer decides what becomes of a request; nil takes all.
	answer  func(n int) (*emptypb.Empty, error)
	asked   int
	records []*logs.LogRecord
	of      map[string]string // attributes of the resource
	options []grpc.ServerOption
}

func (c *collector) take(r *logs.LogsData) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	answer, err := &emptypb.Empty{}, error(nil)
	if c.answer != nil {
		answer, err = c.answer(c.asked)
	}
	if err != nil {
		return nil, err
	}
	for _, of := range r.ResourceLogs {
		c.of = texts(of.Resource.Attributes)
		for _, scope := range of.ScopeLogs {
			c.records = append(c.records, scope.LogRecords...)
		}
	}
	return answer, nil
}

func (c *collector) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.records)
}

func texts(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.Key] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_DoubleValue:
			out[kv.Key] = fmt.Sprint(v.DoubleValue)
		case *common.AnyValue_ArrayValue:
			for _, s := range v.ArrayValue.Values {
				out[kv.Key] += s.GetStringValue() + ";"
			}
		}
	}
	return out
}

// serve serves the collector at an address, "" for any, and returns the address and what ends it.
func (c *collector) serve(address string) (string, func()) {
	c.t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	export := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var r logs.LogsData
		if err := decode(&r); err != nil {
			return nil, err
		}
		return c.take(&r)
	}
	g := grpc.NewServer(c.options...)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.logs.v1.LogsService", Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: export}},
	}, nil)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(l) }()
	stop := sync.OnceFunc(func() { g.Stop(); <-served })
	c.t.Cleanup(stop)
	return l.Addr().String(), stop
}

// behind starts an OpenTelemetry collector that sends logs on by HTTP, and returns where it takes them.
func (c *collector) behind(program, tls string) string {
	t := c.t
	t.Helper()
	end := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var data logs.LogsData
		if err == nil {
			err = proto.Unmarshal(body, &data)
		}
		if err != nil {
			t.Errorf("from the collector: %v", err)
		}
		_, _ = c.take(&data)
	}))
	t.Cleanup(end.Close)
	return testenv.Collector(t, program, "logs", end.URL, tls)
}

var theirs = Collector{Namespace: "observability", Service: "otel", Port: 4317}

// at makes an address the only ready endpoint of the collector's Service.
func (w *world) at(address string) {
	st := w.cfg.State
	tx := st.Write(st.Endpoints)
	defer tx.Commit()
	st.Endpoints.Put(tx, &model.Endpoints{Service: "observability/otel", Port: 4317, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("192.0.2.1:1"), Terminating: true}, {Address: netip.MustParseAddrPort(address)},
	}})
}

func (w *world) otlp() *Exporter {
	w.t.Helper()
	x, err := NewOTLP(w.cfg, theirs)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// TestOTLP: a collector gets flows as log records. With $OTEL_COLLECTOR it is that program, which sends what it gets on to the
// test: see make traces.
func TestOTLP(t *testing.T) {
	w := newWorld(t)
	c := &collector{t: t}
	if program := os.Getenv("OTEL_COLLECTOR"); program != "" {
		w.at(c.behind(program, ""))
	} else {
		at, _ := c.serve("")
		w.at(at)
	}
	w.run(w.otlp())
	f := numbered(7)
	f.Verdict, f.Reason, f.Policies, f.Layer = observe.Refused, "no policy allows it", []string{"shop/a", "shop/b"}, observe.L7
	f.Source.Identity, f.Destination.Service = "spiffe://td/ns/shop/sa/client", "shop/web"
	f.HTTP = &observe.Request{Method: "GET", Host: "web", Path: "/\xff" + strings.Repeat("a", 2*maxText), Status: 403}
	f.Sent, f.Duration = 12, 1_500_000
	w.cfg.Flows.Add(f)
	w.until("the record", func() bool { return c.count() == 1 })
	if c.of["service.name"] != "weft-agent" || c.of["k8s.node.name"] != "n1" || c.of["service.version"] != "v1" {
		t.Errorf("resource: %v", c.of)
	}
	r := c.records[0]
	if r.EventName != EventName || r.TimeUnixNano != uint64(f.Time.UnixNano()) || r.SeverityNumber != logs.SeverityNumber_SEVERITY_NUMBER_WARN ||
		r.Body.GetStringValue() != "refused L7 shop/client:40000 -> shop/7:80" {
		t.Errorf("record: %v", r)
	}
	got := texts(r.Attributes)
	for key, want := range map[string]string{
		"weft.verdict": "refused", "weft.layer": "L7", "weft.reporter": "source", "weft.reason": "no policy allows it", "weft.policies": "shop/a;shop/b;",
		"network.transport": "tcp", "source.address": "10.0.0.1", "source.port": "40000", "weft.source.namespace": "shop",
		"weft.source.identity": "spiffe://td/ns/shop/sa/client", "weft.destination.pod": "shop/7", "weft.destination.service": "shop/web",
		"http.request.method": "GET", "http.response.status_code": "403", "weft.bytes.sent": "12", "weft.duration": "0.0015",
		"url.path": "/?" + strings.Repeat("a", maxText-2),
	} {
		if got[key] != want {
			t.Errorf("%s is %.100q, want %.100q", key, got[key], want)
		}
	}
	if _, there := got["weft.bytes.received"]; there {
		t.Error("what is not known is there")
	}
}

// TestCollectorComesBack: what a collector could not take is sent again, once.
func TestCollectorComesBack(t *testing.T) {
	w := newWorld(t)
	c := &collector{t: t}
	x := w.otlp()
	stop := w.run(x)
	w.add(0, 3)
	w.until("an error", func() bool { return strings.Contains(w.row(x).Error, "has no endpoint") })
	at, _ := c.serve("")
	w.at(at)
	w.until("the flows", func() bool { return c.count() == 3 })
	w.until("the end of the error", func() bool { return w.row(x).Error == "" })
	stop()
	if w.lost(x) != 0 || c.count() != 3 {
		t.Errorf("%d flows were lost, %d came", w.lost(x), c.count())
	}
}

// TestCollectorRefuses: what may succeed later is tried again; what a collector refuses for good is lost, and what comes after
// it is not.
func TestCollectorRefuses(t *testing.T) {
	partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 2)
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), "too old")
	some := &emptypb.Empty{}
	some.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial))
	for name, c := range map[string]struct {
		answer func(n int) (*emptypb.Empty, error)
		lost   uint64
		says   string
	}{
		"later":    {func(int) (*emptypb.Empty, error) { return nil, status.Error(codes.Unavailable, "busy") }, 0, "busy"},
		"for good": {func(int) (*emptypb.Empty, error) { return nil, status.Error(codes.InvalidArgument, "not so") }, 3, "not so"},
		"in part":  {func(int) (*emptypb.Empty, error) { return some, nil }, 2, "rejected 2 of 3 flows: too old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			release := make(chan struct{})
			end := &collector{t: t, answer: func(n int) (*emptypb.Empty, error) {
				if n == 1 {
					return c.answer(n)
				}
				<-release
				return &emptypb.Empty{}, nil
			}}
			at, _ := end.serve("")
			w.at(at)
			x := w.otlp()
			x.linger = 0
			for i := range 3 {
				f := numbered(i)
				x.queue <- item{0, &f}
			}
			w.run(x)
			w.until("an error", func() bool { return strings.Contains(w.row(x).Error, c.says) && w.lost(x) == c.lost })
			close(release)
			w.add(3, 1)
			want := 4
			if name == "for good" {
				want = 1
			}
			w.until("what comes after", func() bool { return end.count() == want })
			w.until("the end of the error", func() bool { return w.row(x).Error == "" })
			if n := w.lost(x); n != c.lost {
				t.Errorf("%d flows were lost, want %d", n, c.lost)
			}
		})
	}
}

// TestBlockedCollector: a collector that does not answer holds up no flow and not the end.
func TestBlockedCollector(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	c := &collector{t: t, answer: func(int) (*emptypb.Empty, error) { <-release; return &emptypb.Empty{}, nil }}
	at, stopServer := c.serve("")
	w.at(at)
	x := w.otlp()
	x.linger = 0
	stop := w.run(x)
	const n = maxQueue + 2*maxBatch
	w.add(0, n)
	w.until("a loss", func() bool { return w.lost(x) > 0 })
	if seen := w.cfg.Flows.Count(); seen != n {
		t.Errorf("%d flows were kept", seen)
	}
	stop()
	close(release)
	stopServer()
}

// TestLongRecords: requests are not longer than collectors take.
func TestLongRecords(t *testing.T) {
	w := newWorld(t)
	c := &collector{t: t}
	at, _ := c.serve("")
	w.at(at)
	x := w.otlp()
	for range maxBatch {
		f := numbered(1)
		f.HTTP = &observe.Request{Path: "/" + strings.Repeat("a", 1<<16), Host: strings.Repeat("b", 1<<16)}
		x.queue <- item{0, &f}
	}
	w.run(x)
	w.until("all", func() bool { return c.count() == maxBatch })
	if c.asked < 2 {
		t.Errorf("%d requests", c.asked)
	}
}

// FuzzPartialSuccess: an answer is a collector's.
func FuzzPartialSuccess(f *testing.F) {
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01})
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, message := partialSuccess(b); len(message) > 3*maxText {
			t.Errorf("a message of %d bytes", len(message))
		}
	})
}
