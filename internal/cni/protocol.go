package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// What plugin and agent say to each other: a POST of JSON to one of these paths. The answer is 200 without a body, or an
// error of the CNI (types.Error) with any other status.
const (
	pathAdd   = "/v1/add"
	pathDel   = "/v1/del"
	pathCheck = "/v1/check"
	pathGC    = "/v1/gc"
)

// maxRequest bounds a request's body, in bytes.
const maxRequest = 1 << 20

// Request is about one pod's sandbox.
type Request struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	UID         string `json:"uid"`
	ContainerID string `json:"containerID"`
	// NetNS is the path of the network namespace; a DEL may have none.
	NetNS string `json:"netns,omitempty"`
	// Addresses are those that the plugins before gave the pod; only an ADD has them.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Pod is namespace/name.
func (r *Request) Pod() string { return r.Namespace + "/" + r.Name }

// Keep names the sandboxes that there are; what belongs to others can go.
type Keep struct {
	ContainerIDs []string `json:"containerIDs"`
}

// decode reads one JSON value, and nothing after it.
func decode(r io.Reader, into any) error {
	d := json.NewDecoder(io.LimitReader(r, maxRequest))
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not the JSON that is expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

// decodeRequest reads a request and refuses what cannot be about a pod.
func decodeRequest(r io.Reader) (*Request, error) {
	var req Request
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return &req, req.check()
}

func (r *Request) check() error {
	for _, f := range []struct{ name, value string }{
		{"namespace", r.Namespace}, {"name", r.Name}, {"uid", r.UID}, {"containerID", r.ContainerID},
	} {
		if f.value == "" || f.value == "." || f.value == ".." || len(f.value) > 253 || strings.ContainsAny(f.value, "/\x00") {
			return fmt.Errorf("%s %q is none", f.name, f.value)
		}
	}
	if len(r.NetNS) > 4095 || strings.Contains(r.NetNS, "\x00") {
		return errors.New("netns is no path")
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("address %q is none of a pod", a)
		}
	}
	return nil
}

// Errors of the agent, by their codes in the CNI's specification.

// tryLater is an error that may go by itself: the kubelet asks again.
func tryLater(message, check string) *types.Error {
	return types.NewError(types.ErrTryAgainLater, message, check)
}
