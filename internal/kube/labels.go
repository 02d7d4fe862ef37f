package kube

// Labels of the mesh.
const (
	LabelMTLS        = "weft.io/mtls"
	LabelMTLSEnforce = "weft.io/mtls-enforce" // on namespaces
	LabelL7          = "weft.io/l7"
	// LabelTraceSampling is on namespaces: the percentage of requests of its pods and Gateways that begin a trace.
	LabelTraceSampling = "weft.io/trace-sampling"
)

// Values of labels that turn something on or off.
const (
	Enabled  = "enabled"
	Disabled = "disabled"
)

// AnnotationStandIn is on objects that stand in for one that cannot be read. Its value says what that means.
const AnnotationStandIn = "weft.io/stands-in"

// AnnotationSharedWith is on a Gateway and names other namespaces, separated by commas, whose Gateways may ask for its
// addresses too.
const AnnotationSharedWith = "weft.io/address-shared-with"
