package gateway

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weft-mesh/weft/internal/model"
)

// probesOf returns the calls that the pod declares of the kubelet, sorted: those of probes, and of HTTP hooks after the
// start and before the stop of a container. It reports those that cannot be let in.
func probesOf(pod *corev1.Pod, t *problems) []model.Probe {
	var out []model.Probe
	add := func(c *corev1.Container, host string, port intstr.IntOrString, p model.Probe) {
		// The kubelet calls another host in place of the pod, if one is given.
		if host != "" && !slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == host }) {
			return
		}
		if number := containerPort(c, port); validPort(number) {
			p.Port = uint16(number)
			out = append(out, p)
		}
	}
	get := func(c *corev1.Container, h *corev1.HTTPGetAction) {
		if h.Scheme == corev1.URISchemeHTTPS {
			add(c, h.Host, h.Port, model.Probe{Kind: model.ProbeHTTPS})
			return
		}
		switch target, ok := requestTarget(h.Path); {
		case !ok:
		case len(target) > model.MaxProbeTarget:
			t.add("Invalid", fmt.Sprintf("the path %q of a probe or hook is longer than %d bytes: while the pod is strict or has a policy, the kubelet's requests for it are refused",
				short(h.Path), model.MaxProbeTarget))
		default:
			add(c, h.Host, h.Port, model.Probe{Kind: model.ProbeHTTP, Target: target})
		}
	}
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	for i := range containers {
		c := &containers[i]
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			switch {
			case p == nil:
			case p.HTTPGet != nil:
				get(c, p.HTTPGet)
			case p.TCPSocket != nil:
				add(c, p.TCPSocket.Host, p.TCPSocket.Port, model.Probe{Kind: model.ProbeTCP})
			case p.GRPC != nil:
				add(c, "", intstr.FromInt32(p.GRPC.Port), model.Probe{Kind: model.ProbeGRPC})
			}
		}
		if c.Lifecycle == nil {
			continue
		}
		// The kubelet does not support hooks of kind tcpSocket.
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				get(c, h.HTTPGet)
			}
		}
	}
	slices.SortFunc(out, func(a, b model.Probe) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Target, b.Target))
	})
	return slices.Compact(out)
}

// requestTarget returns what the kubelet asks for, given the path of an httpGet, which may have a query. It follows the kubelet
// (k8s.io/kubernetes/pkg/probe/http): a path that is no URL is taken as it is, and what comes of both is parsed again. It
// reports false if the kubelet could not make a request of it.
func requestTarget(path string) (string, bool) {
	u, err := url.Parse(path)
	if err != nil {
		u = &url.URL{Path: path}
	}
	u.Scheme, u.Host = "http", net.JoinHostPort("192.0.2.1", strconv.Itoa(80))
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil || req.URL.Host == "" {
		return "", false
	}
	return req.URL.RequestURI(), true
}
