package wire

// QuoteResults answers GET /v2.x/quotes/identity and /quotes/integrity at a pull agent.
type QuoteResults struct {
	// Quote is a packed quote (UnpackQuote).
	Quote string `json:"quote"`
	// HashAlg, EncAlg and SignAlg are the agent's words for its algorithms; they decide nothing.
	HashAlg string `json:"hash_alg"`
	EncAlg  string `json:"enc_alg"`
	SignAlg string `json:"sign_alg"`
	// Pubkey is the transport key in PEM, exactly as PCR 16 binds it; absent in a partial answer.
	Pubkey string `json:"pubkey,omitempty"`
	// ImaMeasurementList is the list in the kernel's ASCII form from entry ImaMeasurementListEntry on, counted from 0. Both are nil where the
	// agent has no list; an empty text says that there is nothing new.
	ImaMeasurementList      *string `json:"ima_measurement_list,omitempty"`
	ImaMeasurementListEntry *uint64 `json:"ima_measurement_list_entry,omitempty"`
	// ImaMeasurementListBytes is ours: in base64 the exact bytes of ImaMeasurementList where those are not UTF-8, since a file may have any name and a
	// JSON string not. The text beside it is then a rendering for those who do not know this member.
	ImaMeasurementListBytes string `json:"ima_measurement_list_bytes,omitempty"`
	// MbMeasurementList is the binary event log in base64.
	MbMeasurementList string `json:"mb_measurement_list,omitempty"`
	// Boottime is documented and sent by no agent that we know. It decides nothing.
	Boottime int64 `json:"boottime,omitempty"`
}

// PubkeyResults answers GET /v2.x/keys/pubkey.
type PubkeyResults struct {
	Pubkey string `json:"pubkey"`
}

// AgentInfo answers GET /v2.x/agent/info, from 2.2 on.
type AgentInfo struct {
	AgentID  string `json:"agent_uuid"`
	HashAlg  string `json:"tpm_hash_alg"`
	EncAlg   string `json:"tpm_enc_alg"`
	SignAlg  string `json:"tpm_sign_alg"`
	AKHandle uint32 `json:"ak_handle"`
}
