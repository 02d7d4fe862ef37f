// Package udpechoserver has the message of the echo server for UDP: it answers each datagram with an EchoResponse as JSON.
package udpechoserver

// EchoResponse is the answer to a datagram.
type EchoResponse struct {
	Request string `json:"request"` // the datagram
	Context
}

// Context says which pod has answered.
type Context struct {
	Namespace string `json:"namespace"`
	Ingress   string `json:"ingress"`
	Service   string `json:"service"`
	Pod       string `json:"pod"`
}
