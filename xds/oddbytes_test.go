package xds

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// oddText is no UTF-8. A value of an HTTP header may have such bytes (RFC 9110 5.5), and a message in protocol buffers may not: if
// Envoy wrote them into one, the agent or the collector would refuse the message, with what it says of others.
const oddText = "\xff\x80\xc3"

// oddPlace is one at which a client chooses text that Envoy reports.
type oddPlace struct {
	name string
	dial func(*testing.T) (io.ReadWriter, error)
	// good returns a request that is as it should be, and what checks that its flow and its span have been reported.
	good func() (fields []hpack.HeaderField, reported func() error)
}

// TestOddBytesHideNoFlow: a request with bytes that are not UTF-8 takes nothing from what is reported of others at the same time: at a
// Gateway, at the caller's pod and at the destination's.
func TestOddBytesHideNoFlow(t *testing.T) {
	o := newOddWorld(t)
	places := o.places()
	for name, odd := range map[string]hpack.HeaderField{
		"the name of a stream":          {Name: headerStream, Value: oddText + strings.Repeat("0", lenStreamID-len(oddText))},
		"the user agent":                {Name: "user-agent", Value: oddText},
		"the path":                      {Name: ":path", Value: "/" + oddText},
		"the query":                     {Name: ":path", Value: "/?a=" + oddText},
		"the authority":                 {Name: ":authority", Value: oddText + ".example"},
		"the scheme":                    {Name: ":scheme", Value: oddText},
		"the method":                    {Name: ":method", Value: oddText},
		"the referer":                   {Name: "referer", Value: oddText},
		"addresses of clients":          {Name: "x-forwarded-for", Value: oddText},
		"the ID of the request":         {Name: "x-request-id", Value: oddText},
		"the path before":               {Name: "x-envoy-original-path", Value: oddText},
		"the cluster of the client":     {Name: "x-envoy-downstream-service-cluster", Value: oddText},
		"the state of the trace":        {Name: "tracestate", Value: "a=" + oddText},
		"the parent of the trace":       {Name: "traceparent", Value: parentOf(traceID(1), oddText[:2])},
		"the type of the content":       {Name: "content-type", Value: "application/grpc+" + oddText},
		"the time of gRPC":              {Name: "grpc-timeout", Value: oddText},
		"a header that is an attribute": {Name: "x-user", Value: oddText},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reports []func() error
			for _, p := range places {
				good := func() []hpack.HeaderField {
					fields, reported := p.good()
					if status, err := sendFields(t, p.dial, fields); err != nil || status != "200" {
						t.Errorf("%s: a request as it should be: status %q, %v", p.name, status, err)
					}
					reports = append(reports, func() error {
						if err := reported(); err != nil {
							return fmt.Errorf("%s: %w", p.name, err)
						}
						return nil
					})
					return fields
				}
				fields := good()
				_, _ = sendFields(t, p.dial, changedField(fields, odd)) // it may be refused
				good()
			}
			untilReported(t, reports)
		})
	}
	t.Run("a client's certificate and the name of the server", func(t *testing.T) {
		t.Parallel()
		var reports []func() error
		for _, hello := range []*tls.Config{{}, {ServerName: oddText + ".example"}, {Certificates: []tls.Certificate{oddCertificate(t)}}, {}} {
			hello.InsecureSkipVerify, hello.NextProtos = true, []string{"h2"}
			if len(hello.Certificates) > 0 { // shown even if the listener names other authorities
				hello.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &hello.Certificates[0], nil }
			}
			fields, reported := o.request()
			if status, err := sendFields(t, func(*testing.T) (io.ReadWriter, error) {
				return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", fmt.Sprint("127.0.0.1:", o.https), hello)
			}, fields); err != nil || status != "200" {
				t.Errorf("status %q, %v", status, err)
			}
			reports = append(reports, reported)
		}
		untilReported(t, reports)
	})
	t.Cleanup(o.noRejections)
}

func untilReported(t *testing.T, reports []func() error) {
	t.Helper()
	until(t, "all is reported", func() error {
		var missing []error
		for _, reported := range reports {
			missing = append(missing, reported())
		}
		return errors.Join(missing...)
	})
}

// changedField has one field in place of that of the same name. A CONNECT has neither path nor scheme.
func changedField(fields []hpack.HeaderField, odd hpack.HeaderField) []hpack.HeaderField {
	out := slices.Clone(fields)
	i := slices.IndexFunc(out, func(f hpack.HeaderField) bool { return f.Name == odd.Name })
	switch {
	case i >= 0:
		out[i] = odd
	case !strings.HasPrefix(odd.Name, ":"):
		out = append(out, odd)
	}
	return out
}

// oddCertificate is one that its holder has signed, with a URI that is not ASCII.
func oddCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	const uri = 6 // GeneralName, RFC 5280 4.2.1.6
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: uri, Bytes: []byte("spiffe://" + oddText)}})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// oddWorld has a Gateway, a caller and a destination whose policy looks at requests, and everything that can be reported is.
type oddWorld struct {
	*world
	got         *spans
	port, https uint16 // of the Gateway
	a, b        *lab.Pod
	caller      *tls.Config // a peer of the destination
	requests    atomic.Int64
}

func newOddWorld(t *testing.T) *oddWorld {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{RequestLog: true, RequestStats: true, Traces: &Traces{Namespace: "observability", Service: "otel", Port: 4317, Sampling: 100}})
	o := &oddWorld{world: w, got: &spans{}, port: freePort(t), https: freePort(t), a: pods[0], b: pods[1]}
	// Like the OpenTelemetry Collector, it takes text that is not UTF-8.
	collectorAt(w, o.got.listen(t, grpc.ForceServerCodecV2(newTextCodec())))
	requests := &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
		{Ports: []uint16{8080}, HTTP: []model.HTTPRule{{Paths: []model.PathMatch{{Type: model.MatchPrefix, Value: "/"}}}}}, {Ports: []uint16{9000}},
	}}
	a, b := workload(o.a, "shop", model.MTLSStrict, nil), workload(o.b, "shop", model.MTLSStrict, requests)
	put(w, w.st.Workloads, a, b)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
	echo(t, o.b, 8080, "b")
	echoBytes(t, o.b, 9000)
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	o.caller = w.ca.tlsConfig(identity("shop", "a"))
	backend(t, w, "v1")
	gatewayWith(w, o.port, model.Rule{Match: path(model.MatchPrefix, "/"), Backends: []model.Backend{to("v1", 1)}})
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
	changed := *g
	changed.Tracing = tracingOf("p", otel())
	changed.Tracing.Attributes = []model.SpanAttribute{{Name: "user", Header: "x-user"}, {Name: "asked", Key: "http.request.header.x-user"}}
	for _, key := range model.SpanKeys {
		changed.Tracing.Attributes = append(changed.Tracing.Attributes, model.SpanAttribute{Name: "k/" + key, Key: key})
	}
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	changed.Ports = append(changed.Ports, model.GatewayPort{Port: o.https, TLS: true, Listeners: []model.GatewayListener{{
		Name: "https", RouteTable: changed.Ports[0].Listeners[0].RouteTable, Certificates: []string{"shop/cert"},
		Clients: &model.ClientValidation{CA: string(w.ca.pem()), Fallback: true},
	}}})
	put(w, w.st.Gateways, &changed)
	w.envoy().until("the Gateway", func() error {
		if _, err := trySend(o.port, "GET", "x", "/", nil); err != nil {
			return err
		}
		c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", o.https), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
		}
		return err
	})
	w.noRejections()
	return o
}

func (o *oddWorld) places() []oddPlace {
	return []oddPlace{
		{"a Gateway", func(*testing.T) (io.ReadWriter, error) { return net.Dial("tcp", fmt.Sprint("127.0.0.1:", o.port)) }, o.request},
		{"the caller", func(t *testing.T) (io.ReadWriter, error) { return dialPod(t, o.a, "127.0.0.1:15001"), nil }, o.request},
		{"the destination", func(t *testing.T) (io.ReadWriter, error) {
			c, _, err := connectOver(t, o.a, o.caller, o.b.Address, netip.AddrPortFrom(o.b.Address, 8080).String())
			return c, err
		}, o.request},
		{"an authenticated connection", func(t *testing.T) (io.ReadWriter, error) {
			c := tls.Client(dialPod(t, o.a, netip.AddrPortFrom(o.b.Address, PortHBONE).String()), o.caller)
			return c, c.Handshake()
		}, o.connect},
	}
}

// request is one in a trace of its own, by which its flow and its span are found.
func (o *oddWorld) request() ([]hpack.HeaderField, func() error) {
	id := fmt.Sprintf("%032x", 1<<20+o.requests.Add(1))
	path := "/" + id
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "echo.shop"},
		{Name: "traceparent", Value: parentOf(id, "01")},
	}
	return fields, func() error {
		if !o.got.has(id) {
			return errors.New("a span is missing")
		}
		return o.has("a request", func(f *Flow) bool { return f.Request != nil && f.Request.Path == path })
	}
}

// connect is a CONNECT by a name of its own, by which its flow is found.
func (o *oddWorld) connect() ([]hpack.HeaderField, func() error) {
	id := fmt.Sprintf("01234567-89ab-4cde-8f01-%012x", o.requests.Add(1))
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: netip.AddrPortFrom(o.b.Address, 9000).String()}, {Name: headerStream, Value: id},
	}
	return fields, func() error {
		return o.has("a connection", func(f *Flow) bool { return f.Stream == id && f.Open })
	}
}

func (o *oddWorld) has(what string, fits func(*Flow) bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.ContainsFunc(o.flows, fits) {
		return errors.New("the flow of " + what + " is missing")
	}
	return nil
}

// sendFields sends a request by HTTP/2 with just these fields, and returns the status of the answer.
func sendFields(t *testing.T, dial func(*testing.T) (io.ReadWriter, error), fields []hpack.HeaderField) (status string, err error) {
	c, err := dial(t)
	if err != nil {
		return "", err
	}
	if closer, ok := c.(io.Closer); ok {
		defer closer.Close()
	}
	if conn, ok := c.(net.Conn); ok {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(f); err != nil {
			return "", err
		}
	}
	framer := http2.NewFramer(c, c)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = io.WriteString(c, http2.ClientPreface)
	connect := fields[0].Value == "CONNECT"
	if err = errors.Join(err, framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndStream: !connect, EndHeaders: true,
	})); err != nil {
		return "", err
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return status, err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
			if connect || f.StreamEnded() {
				return status, nil
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status, nil
			}
		case *http2.RSTStreamFrame:
			return status, fmt.Errorf("reset: %s", f.ErrCode)
		case *http2.GoAwayFrame:
			return status, fmt.Errorf("goaway: %s", f.ErrCode)
		}
	}
}
