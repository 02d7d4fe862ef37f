package check

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
)

const (
	installWeft   = "kubectl apply --server-side -f install/crds, then kubectl apply -f install/weft.yaml; or the chart install/chart"
	oneRelease    = "apply chart or manifest of one release as a whole"
	controllerLog = "kubectl -n %s logs deployment/weft-controller"
)

// Installed is what is judged after Weft was installed.
type Installed struct {
	Host, Version string // of the API server
	survey.Installation
	// Unread is what could not be read of the cluster.
	Unread error
	// Agents are what the nodes' agents told.
	Agents []Agent
	Now    time.Time
}

// Check judges all of it.
func (i *Installed) Check() []Result {
	r := &report{area: "cluster"}
	r.ok("API server", "%s, Kubernetes %s", i.Host, i.Version)
	if i.Unread != nil {
		r.warn("what can be read", readableCluster, "%v", i.Unread)
	}
	if len(i.Parts) == 0 && len(i.Pods) == 0 && i.Unread == nil {
		r.fail("Weft", installWeft+"; if it is in another namespace, name that by --mesh-namespace", "is not installed in namespace %s", i.Namespace)
		return r.out
	}
	r.gatewayAPI(i.CRDs)
	r.telemetry(i.CRDs)
	i.weftCRDs(r)
	r.area = "mesh"
	i.parts(r)
	i.cleanup(r)
	i.versions(r)
	i.class(r)
	i.classless(r)
	i.lease(r)
	i.bundle(r)
	i.networkPolicies(r)
	i.objects(r)
	r.area = "nodes"
	i.nodes(r)
	return r.out
}

// weftCRDs judges those of weft.io. Policies are refused by nobody until theirs is there.
func (i *Installed) weftCRDs(r *report) {
	const name = "Weft's CRDs"
	const remedy = "kubectl apply --server-side -f install/crds, of the release that is installed"
	var have, bad []string
	for _, d := range i.CRDs {
		switch {
		case !strings.HasSuffix(d.Name, ".weft.io"):
		case len(d.Served) == 0:
			bad = append(bad, d.Name+" is not there")
		case !d.Established:
			bad = append(bad, d.Name+" is not established")
		case !slices.Contains(d.Served, "v1alpha1"):
			bad = append(bad, fmt.Sprintf("%s serves %s, not v1alpha1", d.Name, strings.Join(d.Served, ", ")))
		default:
			have = append(have, strings.TrimSuffix(d.Name, ".weft.io"))
		}
	}
	if len(bad) > 0 {
		r.fail(name, remedy, "%s", strings.Join(bad, "; "))
	} else if len(have) > 0 {
		r.ok(name, "v1alpha1: %s", strings.Join(have, ", "))
	}
}

// parts judges whether what is installed is rolled out.
func (i *Installed) parts(r *report) {
	for _, want := range []string{"weft-agent", "weft-proxy", "weft-controller"} {
		at := slices.IndexFunc(i.Parts, func(p survey.Part) bool { return p.Name == want })
		if at < 0 {
			r.fail(want, installWeft, "is not there in namespace %s", i.Namespace)
			continue
		}
		p := i.Parts[at]
		see := fmt.Sprintf("kubectl -n %s rollout status %s/%s", i.Namespace, strings.ToLower(p.Kind), p.Name)
		switch {
		case p.Observed && p.Ready >= p.Want && p.Updated >= p.Want:
			r.ok(want, "%s, %d of %d pods are ready", p.Kind, p.Ready, p.Want)
		case p.Ready >= p.Want:
			r.warn(want, "wait, and see "+see, "%s is being rolled out: %d of %d pods run what it asks for", p.Kind, p.Updated, p.Want)
		default:
			r.fail(want, see+i.describe(strings.TrimPrefix(want, "weft-")), "%s, %d of %d pods are ready%s", p.Kind, p.Ready, p.Want, i.why(want))
		}
	}
}

// cleanup judges what takes the mesh off: beside what runs it, it is left over.
func (i *Installed) cleanup(r *report) {
	if slices.ContainsFunc(i.Pods, func(p survey.Pod) bool { return p.Component == survey.Cleanup }) {
		r.fail("weft-cleanup", fmt.Sprintf("kubectl -n %s delete daemonset weft-cleanup, or it takes the mesh off nodes whose agent ends", i.Namespace),
			"what takes the mesh off the nodes is still there")
	}
}

// why gives the reason of the first pod of a part that is not ready.
func (i *Installed) why(part string) string {
	for _, p := range i.Pods {
		if "weft-"+p.Component == part && !p.Ready && p.Why != "" {
			return fmt.Sprintf("; %s: %s", p.Name, p.Why)
		}
	}
	return ""
}

func (i *Installed) describe(component string) string {
	for _, p := range i.Pods {
		if p.Component == component && !p.Ready {
			return fmt.Sprintf(", kubectl -n %s describe pod %s", i.Namespace, p.Name)
		}
	}
	return ""
}

// versions judges whether all that is installed is of one release, and whether agents run it.
func (i *Installed) versions(r *report) {
	const name = "versions"
	labels, tags := map[string][]string{}, map[string][]string{}
	for _, p := range i.Parts {
		labels[p.Version] = append(labels[p.Version], p.Name)
		if tag := tagOf(p.Image); tag != "" {
			tags[tag] = append(tags[tag], p.Name)
		}
	}
	running := map[string][]string{}
	for _, a := range i.Agents {
		if a.Err == nil {
			running[a.Status.Agent.Version] = append(running[a.Status.Agent.Version], a.Node)
		}
	}
	switch {
	case len(labels) > 1:
		r.fail(name, oneRelease, "parts of different releases: %s", by(labels))
	case len(tags) > 1:
		r.fail(name, oneRelease, "images of different releases: %s", by(tags))
	case len(running) > 1:
		r.warn(name, "a rollout may not be finished: kubectl -n "+i.Namespace+" rollout status daemonset/weft-agent", "agents of different versions: %s", by(running))
	case len(labels) == 1:
		r.ok(name, "%s", by(labels))
	}
}

// tagOf gives an image's tag; "" if it is named by digest alone.
func tagOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, ok := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	if !ok {
		return ""
	}
	return tag
}

// by lists who has what, sorted.
func by(who map[string][]string) string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(who)) {
		out = append(out, fmt.Sprintf("%s (%s)", what, some(who[what])))
	}
	return strings.Join(out, ", ")
}

// class judges the GatewayClasses that are Weft's.
func (i *Installed) class(r *report) {
	const name = "GatewayClass"
	kind := slices.IndexFunc(i.CRDs, func(d survey.CRD) bool { return d.Name == "gatewayclasses"+gatewaySuffix })
	if kind >= 0 && len(i.CRDs[kind].Served) == 0 {
		return // it is said that the Gateway API is missing
	}
	var good []string
	found := false
	for _, c := range i.Classes {
		switch {
		case c.Controller != gateway.ControllerName:
		case c.Accepted:
			found = true
			good = append(good, c.Name)
		default:
			found = true
			r.fail(name, fmt.Sprintf("see "+controllerLog, i.Namespace), "%s is not accepted: %s", c.Name, c.Why)
		}
	}
	if len(good) > 0 {
		r.ok(name, "accepted: %s", strings.Join(good, ", "))
	}
	if !found {
		r.fail(name, "see "+fmt.Sprintf(controllerLog, i.Namespace)+", which creates it (chart value gatewayClass.create)", "none is of %s", gateway.ControllerName)
	}
}

// classless tells of Gateways whose class does not exist: no controller is theirs, so nobody says so in their status.
func (i *Installed) classless(r *report) {
	var lost, classes []string
	for _, c := range i.Classes {
		classes = append(classes, c.Name)
	}
	for _, g := range i.Gateways {
		if !slices.Contains(classes, g.Class) {
			lost = append(lost, fmt.Sprintf("%s/%s (%s)", g.Namespace, g.Name, g.Class))
		}
	}
	if len(lost) > 0 && len(classes) > 0 {
		r.warn("Gateways", "set spec.gatewayClassName to one that exists: "+some(classes), "of a class that does not exist, so nobody serves them: %s", some(lost))
	}
}

// lease judges by who holds it, not by its time: the clock here may be another.
func (i *Installed) lease(r *report) {
	const name = "controller's Lease"
	remedy := fmt.Sprintf("nobody writes statuses, addresses and certificates: see "+controllerLog, i.Namespace)
	holder := i.Leader.Holder
	if holder == "" {
		r.fail(name, remedy, "nobody holds it")
		return
	}
	for _, p := range i.Pods {
		if p.Component == survey.Controller && p.Name == holder {
			if !p.Ready {
				r.fail(name, remedy, "%s holds it and is not ready: %s", holder, p.Why)
			} else {
				r.ok(name, "held by %s", holder)
			}
			return
		}
	}
	r.fail(name, remedy+"; a replica takes over within seconds", "%s holds it, which is no pod any more", holder)
}

// bundle judges the roots that all workloads of the cluster trust.
func (i *Installed) bundle(r *report) {
	const name = "trust bundle"
	remedy := fmt.Sprintf("the controller writes it: see "+controllerLog, i.Namespace)
	agent := slices.IndexFunc(i.Parts, func(p survey.Part) bool { return p.Name == "weft-agent" })
	central := agent >= 0 && slices.Contains(i.Parts[agent].Args, "--ca=controller")
	switch certs, err := certificates(i.TrustBundle); {
	case i.TrustBundle == "" && !central:
		r.warn(name, "run the agents with --ca=controller", "each node has roots of its own: pods of different nodes cannot authenticate each other")
	case i.TrustBundle == "":
		r.fail(name, remedy, "there is no ConfigMap weft-trust-bundle in namespace %s: nobody can be authenticated", i.Namespace)
	case err != nil:
		r.fail(name, remedy, "ConfigMap weft-trust-bundle: %v", err)
	default:
		last := slices.MaxFunc(certs, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		if !i.Now.Before(last.NotAfter) {
			r.fail(name, remedy, "every root has ended, the last at %s", last.NotAfter.UTC().Format(time.RFC3339))
			return
		}
		r.ok(name, "%d roots, the last ends at %s", len(certs), last.NotAfter.UTC().Format(time.RFC3339))
	}
}

// networkPolicies judges those that let HBONE through and not weft tunnel's port.
func (i *Installed) networkPolicies(r *report) {
	var without []string
	for _, p := range i.NetworkPolicies {
		if p.HBONE && !p.Tunnel {
			without = append(without, p.Namespace+"/"+p.Name)
		}
	}
	if len(without) > 0 {
		r.warn("network policies", fmt.Sprintf("let TCP port %d pass wherever %d may, or set tunnel.send=false in the chart", model.PortTunnel, model.PortHBONE),
			"%s let port %d pass and not %d, by which weft tunnel carries authenticated bytes", some(without), model.PortHBONE, model.PortTunnel)
	}
}

// certificates reads PEM that holds at least one.
func certificates(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("holds no certificate")
	}
	return out, nil
}
