package mtls

// What an agent and the cluster's CA say to each other: HTTP/2 over TLS 1.3, POST SignPath with a SignRequest as JSON and
// the agent's ServiceAccount token as bearer. The answer 200 has a SignResponse; others have a line of text.
const (
	SignPath = "/v1/sign"
	// Audience of the token.
	Audience = "weft-ca"
	// ServerName is what the CA's certificate is for, beside its SPIFFE ID.
	ServerName = "weft-controller.weft-system.svc"
	// MaxBatch bounds the identities of a request.
	MaxBatch = 64
	// MaxRequest and MaxResponse bound bodies, in bytes.
	MaxRequest  = 256 << 10
	MaxResponse = 1 << 20
)

// SignRequest asks for certificates.
type SignRequest struct {
	// CSRs are PKCS #10 in DER: a P-256 key and a SPIFFE ID as the only name.
	CSRs [][]byte `json:"csrs"`
}

// SignResponse has a result for each CSR, in their order.
type SignResponse struct {
	Results []SignResult `json:"results"`
}

// SignResult is a chain in DER, the leaf first and without the root, or why there is none.
type SignResult struct {
	Chain [][]byte `json:"chain,omitempty"`
	Error string   `json:"error,omitempty"`
}
