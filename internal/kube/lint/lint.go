// Package lint finds what the API allows and nobody means, by objects alone: nothing of it is a condition in a cluster.
//
//	routes.go      what routes attach to
//	policies.go    AuthorizationPolicies
//	backendtls.go  BackendTLSPolicies
//	telemetry.go   XTelemetryPolicies
//	labels.go      labels, of Deployments and the like too
package lint

import (
	"slices"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const groupGateway = "gateway.networking.k8s.io"

// Codes of remarks.
const (
	// CodeNoTraffic is of a rule without a backend that has a weight: connections are refused. Package analyze has it of
	// requests.
	CodeNoTraffic = "NoTraffic"
	// CodeNoParent is of a route without a parentRef.
	CodeNoParent = "NoParent"
	// CodeHostnamesIgnored is of a route of a Service that has hostnames.
	CodeHostnamesIgnored = "HostnamesIgnored"
	// CodeNotHTTP is of an HTTPRoute or GRPCRoute that takes a port as HTTP whose name says that it speaks something else.
	CodeNotHTTP = "NotHTTP"
	// CodeLabel is of a label that means nothing where it is.
	CodeLabel = "UnknownLabel"
	// CodeSelectsNothing is of a policy's target that selects no pod, where its namespace has pods.
	CodeSelectsNothing = "SelectsNothing"
	// CodeNoIdentity is of a policy that asks who a client is, where nobody can prove it.
	CodeNoIdentity = "NoIdentity"
	// CodeNotUsed is of a BackendTLSPolicy that applies to no connection, and of an XTelemetryPolicy that applies to no request.
	CodeNotUsed = "NotUsed"
	// CodeServicePort is of a policy that names the port of a Service, and not that of its pods.
	CodeServicePort = "ServicePort"
)

// Remark is one thing that is most likely not meant.
type Remark struct {
	Code   string
	Object model.ObjectRef
	At     manifests.Place // of objects that are in no table; zero for others
	// For is the parent that the remark is about; "" is the object itself.
	For     string
	Message string
}

// Input is what is looked at.
type Input struct {
	Objects *kube.Objects
	State   *state.State // what the objects come to
	Files   *manifests.Files
	// Protocol returns the protocol that a Service port's name says that it speaks, "" if that is HTTP or not known.
	Protocol func(model.ServicePort) string
}

// Check returns all remarks about the objects that the files have.
func Check(in Input) []Remark {
	c := &checker{objs: in.Objects, st: in.State, files: in.Files, protocol: in.Protocol, snap: in.State.Snapshot()}
	return slices.Concat(c.attachment(), c.labels(), c.policies(), c.unusedTLS(), c.unusedTelemetry())
}

type checker struct {
	objs     *kube.Objects
	st       *state.State
	files    *manifests.Files
	protocol func(model.ServicePort) string
	snap     *state.Snapshot
}

func warn(code string, o model.ObjectRef, message string) Remark {
	return Remark{Code: code, Object: o, Message: message}
}
