package survey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

const (
	// logBytes is the most that is read of one container's log: its last lines, some 200 bytes each.
	logBytes = 5 << 20
	logLines = 20_000
)

// Objects are the objects of one kind, as the API server has them, or why they are not known.
type Objects struct {
	Items []json.RawMessage
	Err   error
}

// Inventory asks for the workloads, pods and events of a namespace, and for the nodes and the GatewayClasses of the cluster.
// It leaves out Secrets, ConfigMaps and what containers have in their environment.
func (c *Cluster) Inventory(ctx context.Context, namespace string) map[string]Objects {
	out := map[string]Objects{}
	in := "/namespaces/" + url.PathEscape(namespace)
	for what, path := range map[string]string{
		"pods": "/api/v1" + in + "/pods", "events": "/api/v1" + in + "/events", "nodes": "/api/v1/nodes",
		"daemonsets": "/apis/apps/v1" + in + "/daemonsets", "deployments": "/apis/apps/v1" + in + "/deployments",
		"leases":         "/apis/coordination.k8s.io/v1" + in + "/leases",
		"gatewayclasses": "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
	} {
		items, err := list[any](ctx, c, path, "", "")
		o := Objects{Err: err}
		for _, item := range items {
			text, err := json.Marshal(withoutEnvironment(item))
			if err != nil {
				o.Err = err
				break
			}
			o.Items = append(o.Items, text)
		}
		out[what] = o
	}
	return out
}

// withoutEnvironment takes the environment of containers, and the annotation that repeats it, out of an object.
func withoutEnvironment(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "env")
		delete(v, "envFrom")
		delete(v, corev1.LastAppliedConfigAnnotation)
		for _, inner := range v {
			withoutEnvironment(inner)
		}
	case []any:
		for _, inner := range v {
			withoutEnvironment(inner)
		}
	}
	return v
}

// Log is the end of a container's log.
type Log struct {
	Pod, Container string
	Previous       bool // of the container before the one that runs
	Text           []byte
	Err            error
}

// Logs asks for the logs of Weft's pods, those of containers that ended before too, and gives them to each one after the
// other, until each returns an error.
func (c *Cluster) Logs(ctx context.Context, namespace string, each func(Log) error) error {
	pods, err := list[corev1.Pod](ctx, c, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods", podSelector, "")
	if err != nil {
		return fmt.Errorf("pods of %s: %w", namespace, err)
	}
	for i := range pods {
		for _, s := range pods[i].Status.ContainerStatuses {
			if err := each(c.log(ctx, &pods[i], s.Name, false)); err != nil {
				return err
			}
			if s.RestartCount == 0 {
				continue
			}
			if err := each(c.log(ctx, &pods[i], s.Name, true)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) log(ctx context.Context, p *corev1.Pod, container string, previous bool) Log {
	r := c.rest.Get().AbsPath("/api/v1/namespaces/"+p.Namespace+"/pods/"+p.Name+"/log").
		Param("container", container).Param("previous", strconv.FormatBool(previous)).
		Param("tailLines", strconv.Itoa(logLines)).Param("limitBytes", strconv.Itoa(logBytes))
	out := Log{Pod: p.Name, Container: container, Previous: previous}
	out.Text, out.Err = raw(ctx, r)
	return out
}
