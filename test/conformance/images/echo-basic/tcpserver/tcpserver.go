// Package tcpserver has the messages of the echo server for TCP and TLS. The server sends WelcomeMessage first. It answers
// lines: TEST with TCPAssertions as JSON, IS_TLS with true or false, PING with PONG.
package tcpserver

// WelcomeMessage is the line that the server sends when a connection is there.
const WelcomeMessage = "Gateway API Test TCP Server\n"

// TCPAssertions is the answer to TEST: which pod has answered, and how the connection came to it.
type TCPAssertions struct {
	Context
	IsTLS        bool           `json:"isTLS"`
	TLSAssertion *TLSAssertions `json:"tls,omitempty"` // nil in the clear
}

// Context says which pod has answered, and on which ports it listens.
type Context struct {
	Namespace string `json:"namespace"`
	Ingress   string `json:"ingress"`
	Service   string `json:"service"`
	Pod       string `json:"pod"`
	TCPPort   string `json:"tcpport"`
	TLSPort   string `json:"tlsport,omitempty"`
}

// TLSAssertions describes a connection by names of crypto/tls.
type TLSAssertions struct {
	Version            string `json:"version"`
	ServerName         string `json:"serverName"`
	NegotiatedProtocol string `json:"negotiatedProtocol,omitempty"`
	Curves             string `json:"curves,omitempty"`
	CipherSuite        string `json:"cipherSuite"`
}
