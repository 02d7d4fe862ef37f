package xds

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// client speaks delta ADS as an Envoy does.
type client struct {
	t       testing.TB
	stream  discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	got     chan *discovery.DeltaDiscoveryResponse
	have    map[string]map[string]string // type -> name -> version
	bytes   int
	close   func()
	refuse  func(r *discovery.DeltaDiscoveryResponse) string // "" accepts
	drained int
}

func (w *world) client() *client {
	w.t.Helper()
	return w.clientAt(filepath.Join(w.dir, "xds.sock"))
}

func (w *world) clientAt(socket string) *client {
	w.t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30))) // Envoy has no limit
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{t: w.t, stream: stream, got: make(chan *discovery.DeltaDiscoveryResponse), have: map[string]map[string]string{}}
	done := make(chan struct{})
	c.close = func() { cancel(); _ = conn.Close(); <-done }
	w.t.Cleanup(c.close)
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case c.got <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}

func (c *client) send(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node = &core.Node{Id: "test"}
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

// subscribe asks for names; none is the wildcard.
func (c *client) subscribe(typeURL string, names ...string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names, InitialResourceVersions: c.have[typeURL]})
}

// next takes the next response and answers it.
func (c *client) next() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case r := <-c.got:
		c.answer(r)
		return r
	case <-time.After(10 * time.Second):
		c.t.Fatal("no response")
		return nil
	}
}

func (c *client) answer(r *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	if c.have[r.TypeUrl] == nil {
		c.have[r.TypeUrl] = map[string]string{}
	}
	ack := &discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	if c.refuse != nil {
		if why := c.refuse(r); why != "" {
			ack.ErrorDetail = &status.Status{Message: why}
			c.send(ack)
			return
		}
	}
	for _, res := range r.Resources {
		c.have[r.TypeUrl][res.Name] = res.Version
		c.bytes += len(res.Resource.Value)
	}
	for _, n := range r.RemovedResources {
		delete(c.have[r.TypeUrl], n)
	}
	c.send(ack)
}

// quiet fails the test if there is a response left. The server answers requests of a stream in order, so that the
// answer to a name that is not there shows that nothing else was to come before.
func (c *client) quiet() {
	c.t.Helper()
	c.subscribe(TypeSecret, "quiet?")
	r := c.next()
	if r.TypeUrl != TypeSecret || !slices.Equal(r.RemovedResources, []string{"quiet?"}) {
		c.t.Errorf("unexpected response: %s %v removed %v", r.TypeUrl, resourceNames(r), r.RemovedResources)
	}
}

func (c *client) names(typeURL string) []string { return slices.Sorted(maps.Keys(c.have[typeURL])) }

func resourceNames(r *discovery.DeltaDiscoveryResponse) []string {
	var names []string
	for _, res := range r.Resources {
		names = append(names, res.Name)
	}
	return names
}
