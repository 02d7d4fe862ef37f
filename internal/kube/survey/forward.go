package survey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Forward opens a loopback port of this machine that leads to a port of a pod, as kubectl port-forward does, until ctx ends. It
// returns host:port. It takes the right to create pods/portforward in the namespace.
func (c *Cluster) Forward(ctx context.Context, namespace, pod string, port uint16) (string, error) {
	dialer, err := c.forwarder(namespace, pod)
	if err != nil {
		return "", err
	}
	ready := make(chan struct{})
	f, err := portforward.NewOnAddressesForStreamingWithContext(quiet(ctx), dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, ready, io.Discard, io.Discard)
	if err != nil {
		return "", fmt.Errorf("forward a port to pod %s/%s: %w", namespace, pod, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case err := <-ended:
		return "", fmt.Errorf("forward a port to pod %s/%s: %w", namespace, pod, errors.Join(err, ctx.Err()))
	case <-ready:
	}
	ports, err := f.GetPorts()
	if err != nil {
		return "", fmt.Errorf("forward a port to pod %s/%s: %w", namespace, pod, err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), nil
}

// forwarder opens streams to a pod: by WebSockets, or by SPDY where the API server is older than that.
func (c *Cluster) forwarder(namespace, pod string) (httpstream.Dialer, error) {
	cfg := rest.CopyConfig(c.cfg)
	cfg.Timeout = 0
	url := c.rest.Post().AbsPath("/api/v1/namespaces", namespace, "pods", pod, "portforward").URL()
	sockets, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", url, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", url, err)
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	return portforward.NewFallbackDialerForStreaming(sockets, old, httpstream.IsUpgradeFailure), nil
}
