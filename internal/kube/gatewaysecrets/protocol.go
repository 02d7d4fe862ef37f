package gatewaysecrets

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// Path is where the CA's service has the stream. A GET of it is answered 200 with messages as JSON, one a line.
const Path = "/v1/gateway-secrets"

// message is a line of the stream. One without a field keeps the stream alive.
type message struct {
	// Put is a Secret that is new or that changed; Delete is the key of one that is not needed any more.
	Put    *certificate `json:"put,omitempty"`
	Delete string       `json:"delete,omitempty"`
	// PutBundle and DeleteBundle are the same for the certificates of authorities.
	PutBundle    *bundle `json:"putBundle,omitempty"`
	DeleteBundle string  `json:"deleteBundle,omitempty"`
	// Complete ends a batch: what was sent on this stream so far is everything. Nothing is in force before.
	Complete bool `json:"complete,omitempty"`
	// Refused says that this node may not serve Gateways: no Secret that was sent is in force any more. It ends a batch too.
	Refused bool `json:"refused,omitempty"`
}

// certificate is a Secret of type kubernetes.io/tls. It holds a private key: never print it.
type certificate struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Chain     []byte `json:"chain"` // PEM
	Key       []byte `json:"key"`   // PEM
}

// String leaves the key out.
func (c *certificate) String() string { return c.Namespace + "/" + c.Name }

func certificateOf(s *corev1.Secret) *certificate {
	return &certificate{Namespace: s.Namespace, Name: s.Name, Chain: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}
}

// secret returns the object as a reader of the API server would hold it.
func (c *certificate) secret() *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name},
		Type:       corev1.SecretTypeTLS, Data: map[string][]byte{},
	}
	for key, value := range map[string][]byte{corev1.TLSCertKey: c.Chain, corev1.TLSPrivateKeyKey: c.Key} {
		if len(value) > 0 {
			s.Data[key] = value
		}
	}
	return s
}

const (
	// maxSecret bounds chain and key of a Secret together, in bytes of PEM. It is gateway.MaxCertificate.
	maxSecret = 64 << 10
	// maxSecrets bounds those that an agent takes. It is gateway.MaxSecrets.
	maxSecrets = 8192
	// maxLine bounds a message as JSON: base64, and two names.
	maxLine = 2*maxSecret + 4<<10
)

// Times of a stream.
type Times struct {
	// Beat lies between two messages at most. Who hears nothing for three of them takes the stream for dead.
	Beat time.Duration
	// Write bounds how long an agent may take to read what it was sent.
	Write time.Duration
	// Life is how long a stream lasts; then the agent opens another, and its token is looked at again.
	Life time.Duration
}

// DefaultTimes suit a cluster.
var DefaultTimes = Times{Beat: 20 * time.Second, Write: 10 * time.Second, Life: 30 * time.Minute}

// keyed returns Secrets by their keys.
func keyed(all []*corev1.Secret) map[string]*corev1.Secret {
	out := make(map[string]*corev1.Secret, len(all))
	for _, s := range all {
		out[kube.Key(s)] = s
	}
	return out
}
