// Package survey asks an API server what the user's commands need to know of a cluster, once, and gives it in plain
// types. It keeps nothing; who follows objects is package kube. What weft connectivity test makes in a cluster goes by it too.
package survey

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"net/url"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// answerWithin bounds the wait for one answer of the API server.
	answerWithin = 10 * time.Second
	// page is the number of objects that are asked for at once, pages the most of them that are read of one kind.
	page, pages = 500, 200
)

// Cluster is a connection to an API server.
type Cluster struct {
	cfg  *rest.Config
	rest *rest.RESTClient
}

// Options say which API server.
type Options struct {
	// Kubeconfig is a file; "" follows kubectl: $KUBECONFIG, ~/.kube/config, or the pod that we run in.
	Kubeconfig string
	// Context is the kubeconfig's; "" is the current one.
	Context string
}

// Open reads the kubeconfig. Nothing is asked yet.
func Open(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context}).ClientConfig()
	if err != nil {
		if clientcmd.IsEmptyConfig(err) {
			return nil, fmt.Errorf("no API server is known: set KUBECONFIG, or name a file by --kubeconfig")
		}
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return of(cfg)
}

func of(cfg *rest.Config) (*Cluster, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent, cfg.Timeout = "weft-cli", answerWithin
	cfg.QPS, cfg.Burst = 100, 200
	cfg.WarningHandler = rest.NoWarnings{} // such as that a version is old, in a form that is for logs
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", cfg.Host, err)
	}
	return &Cluster{cfg: cfg, rest: c}, nil
}

// Known reports whether a kubeconfig that follows kubectl's rules, or the pod that we run in, names an API server.
func Known() bool {
	if raw, err := clientcmd.NewDefaultClientConfigLoadingRules().Load(); err == nil && len(raw.Clusters) > 0 {
		return true
	}
	_, err := rest.InClusterConfig()
	return err == nil
}

// Host is the API server's address.
func (c *Cluster) Host() string { return c.cfg.Host }

// Version asks for the API server's version, such as v1.37.2.
func (c *Cluster) Version(ctx context.Context) (string, error) {
	v, err := get[version.Info](ctx, c, "/version")
	return v.GitVersion, err
}

// get reads one object; there is none of it if absent(err).
func get[T any](ctx context.Context, c *Cluster, path string) (T, error) {
	var out T
	body, err := raw(ctx, c.rest.Get().AbsPath(path))
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	if err != nil {
		err = c.failed(path, err)
	}
	return out, err
}

// failed says that a request for a path failed: what the API server answered, or that it does not answer, which is the same
// for all paths.
func (c *Cluster) failed(path string, err error) error {
	var u *url.Error
	if !stderrors.As(err, &u) || stderrors.Is(err, context.Canceled) {
		return fmt.Errorf("%s%s: %w", c.cfg.Host, path, err)
	}
	if u.Timeout() {
		return fmt.Errorf("the API server %s does not answer: %w", c.cfg.Host, err)
	}
	return fmt.Errorf("the API server %s does not answer: %w", c.cfg.Host, u.Err)
}

// raw returns the body of an answer. The error is the API server's own.
func raw(ctx context.Context, r *rest.Request) ([]byte, error) {
	answer := r.Do(ctx)
	if err := answer.Error(); err != nil { // Raw would give a guess by the HTTP status
		return nil, err
	}
	return answer.Raw()
}

// absent reports whether an error says that the object, or its kind, is not there.
func absent(err error) bool { return errors.IsNotFound(err) }

// metadataOnly asks for objects without spec and status, which for CRDs and Namespaces is most of them.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// list reads all objects at a path; a kind that is not served has none. selector is a label selector. accept may be "".
func list[T any](ctx context.Context, c *Cluster, path, selector, accept string) ([]T, error) {
	var out []T
	more := ""
	for range pages {
		r := c.rest.Get().AbsPath(path).Param("limit", fmt.Sprint(page))
		for name, value := range map[string]string{"labelSelector": selector, "continue": more} {
			if value != "" {
				r = r.Param(name, value)
			}
		}
		if accept != "" {
			r = r.SetHeader("Accept", accept)
		}
		body, err := raw(ctx, r)
		if absent(err) {
			return nil, nil
		}
		var got struct {
			metav1.ListMeta `json:"metadata"`
			Items           []T `json:"items"`
		}
		if err == nil {
			err = json.Unmarshal(body, &got)
		}
		if err != nil {
			return out, c.failed(path, err)
		}
		out = append(out, got.Items...)
		if more = got.Continue; more == "" {
			return out, nil
		}
	}
	return out, fmt.Errorf("%s%s: more than %d objects", c.cfg.Host, path, page*pages)
}
